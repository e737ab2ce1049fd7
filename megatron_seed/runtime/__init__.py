"""The machine: devices, process groups, launchers. No other room knows torch.cuda or a launcher's variables."""
