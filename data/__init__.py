"""Images: loaded or generated, stored as one uint8 tensor on the device, and augmented there in batches."""
