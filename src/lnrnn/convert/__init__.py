"""Weights in and out: the file format of this package, and readers and writers of others'."""

from __future__ import annotations

from lnrnn.convert.command import read as read
from lnrnn.convert.errors import FileError as FileError
from lnrnn.convert.export import originals as originals
from lnrnn.convert.export import write as write
from lnrnn.convert.file import load as load
from lnrnn.convert.file import save as save
from lnrnn.convert.rewrite import rewrite as rewrite
from lnrnn.convert.weights import Checkpoint as Checkpoint
from lnrnn.convert.weights import Origin as Origin
from lnrnn.convert.weights import Weights as Weights
from lnrnn.convert.weights import collect as collect
from lnrnn.convert.weights import restore as restore
