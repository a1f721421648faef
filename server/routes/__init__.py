"""HTTP in, HTTP out: routes know no tensors."""
