# Fails if a build can read anything except its inputs.
{ tools }:
let
  inherit (builtins) attrNames filter head match path readDir;
  libraries = path { path = tools + "/lib"; name = "host-libraries"; };
  shell = path { path = tools + "/shell"; name = "host-shell"; };
  loader = head (filter (name: match "ld-linux.*" name != null) (attrNames (readDir (tools + "/lib"))));
in
derivation {
  name = "sandbox";
  system = builtins.currentSystem;
  builder = "${libraries}/${loader}";
  args = [
    "--library-path"
    "${libraries}"
    "${shell}/bin/sh"
    "-euc"
    "for folder in /usr /home /root /opt ${toString ../.}; do [ ! -e $folder ] || { echo $folder is there; exit 1; }; done; echo >$out"
  ];
}
