"""The networks: fixed stems, learnt trunks, and the normalisation between them."""
