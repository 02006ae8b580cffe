"""Files to Volumes or Refusals, and Volumes to files. Nothing above this room sees a raw file or guesses an orientation."""
