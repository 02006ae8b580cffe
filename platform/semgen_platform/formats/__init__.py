"""Files to Volumes or Refusals, and Volumes to files; nothing above this room sees a raw file or guesses an axis."""
