"""What comes from libvirt, or is left by it: domains' XML, and remembered labels."""
