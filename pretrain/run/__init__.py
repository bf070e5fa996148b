"""What a run of either half needs: settings, command lines, files, checkpoints, processes, run folders, timing."""
