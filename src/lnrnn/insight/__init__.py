"""What happens inside a cell, made visible."""
