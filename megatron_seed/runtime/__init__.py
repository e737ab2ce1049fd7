"""The machine: devices, process groups, launchers. The only rooms that know torch.cuda, parallel_state or a launcher."""
