"""Changes to training images that leave the truth known: crops and zooms, colour, blur, noise."""
