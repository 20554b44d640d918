"""What the towers on square pictures of one size share: SigLIP's, CLIP's, InternViT's."""
