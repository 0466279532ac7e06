"""IAM policies and trust for Amazon Web Services."""
