"""What the towers for images and videos of any size share: Qwen2.5-VL's, Qwen3-VL's, RICE-ViT."""
