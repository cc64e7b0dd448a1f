"""Reads `make -Bn V=1`, prints compile_commands.json."""
import json, os, re, sys

entries = []
for line in sys.stdin:
    m = re.search(r" -c -o (\S+) (\S+\.c)$", line.strip())
    if m and "-target bpf" not in line:
        entries.append({"directory": os.getcwd(), "command": line.strip(), "file": m.group(2)})
json.dump(entries, sys.stdout, indent=1)
