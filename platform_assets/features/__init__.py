"""From a source file to features that training and serving share."""
