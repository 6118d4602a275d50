"""Any text-to-image model, grounded in a knowledge base without training it."""
