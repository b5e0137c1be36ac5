"""The real server in virtual time, with everything around it drawn from one seed: faults at every place it waits."""
