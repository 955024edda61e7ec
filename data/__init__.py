"""Images: read or made, held as one uint8 tensor on the device, augmented there in batches."""
