"""An Invocation and Facts to a Plan: every decision about one VM, before anything is done. Pure."""
