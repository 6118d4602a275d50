"""What trains beside the systems: autoencoder, tokenizer, encoder, judge, copy descriptor."""
