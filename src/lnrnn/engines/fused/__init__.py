"""What the fused engines share: what they take, and the definition that stands in for them."""
