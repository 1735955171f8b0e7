"""Verifies artifacts with nothing but Python, written from docs/artifact-format.md alone. usage: verify.py ARTIFACT…"""
import hashlib, json, pathlib, re, sys

COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?<!\.)")

def sha256(data):
    return hashlib.sha256(data).hexdigest()

def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

def number(value):  # a float as RFC 8785 (ECMAScript) writes it
    if value == int(value) and abs(value) < 2**53:
        return str(int(value))
    digits, _, exponent = repr(value).partition("e")
    whole, _, fraction = digits.lstrip("-").partition(".")
    point, digits = len(whole) + int(exponent or 0), (whole + fraction.removesuffix("0" if fraction == "0" else "")).rstrip("0")
    point, digits = point - (len(digits) - len(digits.lstrip("0"))), digits.lstrip("0")
    text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1:+d}"
    if -6 < point <= 21:
        text = "0." + "0" * -point + digits if point <= 0 else digits[:point].ljust(point, "0") + ("." + digits[point:] if digits[point:] else "")
    return "-" * (value < 0) + text

def canonical(value):
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

def verify(root):
    names = ["SHA256SUMS", "manifest.json", "provenance.json"]
    assert (root / "COMMIT").read_text() == "".join(f"{sha256_of(root / name)}  {name}\n" for name in names), "COMMIT"
    assert {path.name for path in root.iterdir()} <= {*names, "COMMIT", "data", "telemetry"}, "a stranger beside data"
    sums, bytes_ = (root / "SHA256SUMS").read_bytes(), (root / "manifest.json").read_bytes()
    manifest, found = json.loads(bytes_), sorted((root / "data").rglob("*"), key=lambda path: path.as_posix().encode())
    assert manifest["schema"] == "manifest-v1" and canonical(manifest).encode() == bytes_, "manifest.json is not canonical"
    assert all(path.is_dir() or path.is_file() for path in found) and not any(path.is_symlink() for path in found), "a link"
    files = {path.relative_to(root / "data").as_posix(): path for path in found if path.is_file()}
    assert all(COMPONENT.fullmatch(part) for name in files for part in name.split("/")), "a name"
    lines = {name: sha256_of(path) for name, path in files.items()}
    tree = lambda lines: "tree-v1:" + sha256("".join(f"{lines[name]}  {name}\n" for name in lines).encode())
    assert tree(lines) == manifest["tree"] and "".join(f"{h}  {n}\n" for n, h in lines.items()).encode() == sums, "SHA256SUMS"
    assert [[f["path"], f["size"], f["sha256"]] for f in manifest["files"]] == [[n, files[n].stat().st_size, h] for n, h in lines.items()]
    assert all(f["role"] == f["path"].split("/")[0] for f in manifest["files"]), "a role"
    assert [manifest[name] == manifest["key_material"][name] for name in ("stage", "stage_version")] == [True, True], "the stage"
    for output, entry in manifest["outputs"].items():
        own = {n.removeprefix(output + "/"): h for n, h in lines.items() if n == output or n.startswith(output + "/")}
        assert tree(own) == entry["tree"] and len(own) == entry["files"], f"output {output}"
    key = sha256(canonical(manifest["key_material"]).encode())
    assert key == manifest["key"] and root.name.startswith(key[:16] + "-"), "the key"

for argument in sys.argv[1:] if __name__ == "__main__" else []:
    verify(pathlib.Path(argument).resolve())
    print(f"{argument}: good")
