#!/usr/bin/python3 -IS
import ctypes, json, os, resource

signal = ctypes.c_int(0)
ctypes.CDLL(None).prctl(2, ctypes.byref(signal), 0, 0, 0)  # PR_GET_PDEATHSIG
print(
    json.dumps(
        {
            "environment": sorted((ascii(name), ascii(value)) for name, value in os.environb.items()),
            "when the caller dies": signal.value,
            "personality": open("/proc/self/personality").read(),
            "stack": resource.getrlimit(resource.RLIMIT_STACK),
        }
    )
)
