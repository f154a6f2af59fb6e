"""What can be measured on finished runs, computed here and nowhere else; one file each."""
