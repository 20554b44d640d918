"""A vision or audio model of transformers as an encoder, by its name in a tested list."""
