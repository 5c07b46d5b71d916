"""The API of AWS KMS: AWS JSON 1.1, Signature Version 4, quotas."""
