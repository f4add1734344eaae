"""Motion between images: tracked points, essential matrix, photometric alignment, lengths."""
