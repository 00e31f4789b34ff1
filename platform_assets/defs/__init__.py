"""The models that the platform ships with: one folder, one model file each."""
