"""The trainer, the loop over epochs, schedules, callbacks, history and checkpoints."""
