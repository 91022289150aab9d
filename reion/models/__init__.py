"""The networks: fixed stems, trained trunks, and the normalisation between them."""
