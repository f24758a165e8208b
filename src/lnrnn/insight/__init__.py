"""What happens inside layers, made visible."""
