"""Files from and for other tools: camera paths by many conventions, COLMAP models, what a run exports."""
