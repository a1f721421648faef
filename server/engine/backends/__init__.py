"""One module per runtime behind the protocol in `base`; imported lazily, and never each other."""
