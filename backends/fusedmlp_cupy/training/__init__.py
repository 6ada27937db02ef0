"""One network on the device: forward, backward, optimizer steps, and how steps are launched."""
