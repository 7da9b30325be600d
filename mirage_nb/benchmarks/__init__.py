"""What the memory costs, measured: the race against an RGB point cloud."""
