"""Pictures on their way in: sources, filters, augmentation, pictures as tensors."""
