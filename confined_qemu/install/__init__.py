"""The policy module, the launch script, and the links that stand in an emulator's place."""
