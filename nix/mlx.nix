# The native part of `mlx-sys`, in the layout of crates/mlx-sys/native/fetch.sh: a prebuilt MLX and the sources of its C
# interface. The hashes equal those in requirements-*.txt there and in Cargo.lock.
{ pkgs, backend }:
let
  inherit (pkgs) lib stdenv;
  inherit (stdenv.hostPlatform) system;
  version = "0.32.2";

  wheels = {
    cpu = {
      x86_64-linux = { platform = "manylinux_2_35_x86_64"; hash = "sha256-/F0xuQ/E9Fey+WFO1FZRpWfSKmoRoD0RSpCk4QvdiHg="; };
      aarch64-linux = { platform = "manylinux_2_35_aarch64"; hash = "sha256-0PlGJViLUah4eG3VHOxWF4lM5YbPPJRkXOG2TiTCfAs="; };
    };
    metal.aarch64-darwin = { platform = "macosx_14_0_arm64"; hash = "sha256-OCX/83nbwQfdNBPlZKBsrqokgZkQ7EnAQ55FTAahubg="; };
    cuda.x86_64-linux = { platform = "manylinux_2_35_x86_64"; hash = "sha256-M1CUzNHAxtw+CcjKuiB8gYBgK6zAw4uiDB2B6UVqs5Q="; };
  };
  names = { cpu = "mlx_cpu"; metal = "mlx_metal"; cuda = "mlx_cuda_13"; };
  wheel = wheels.${backend}.${system} or (throw "there is no MLX for ${backend} on ${system}");

  mlx = stdenv.mkDerivation {
    pname = "mlx-${backend}";
    inherit version;
    src = pkgs.fetchPypi ({
      pname = names.${backend};
      inherit version;
      format = "wheel";
      dist = "py3";
      python = "py3";
      abi = "none";
    } // wheel);
    nativeBuildInputs = [ pkgs.unzip ] ++ lib.optional stdenv.hostPlatform.isLinux pkgs.autoPatchelfHook;
    buildInputs = lib.optional stdenv.hostPlatform.isLinux stdenv.cc.cc.lib;
    # The driver and its libraries come from the machine.
    autoPatchelfIgnoreMissingDeps = backend == "cuda";
    unpackPhase = "unzip -q $src";
    dontConfigure = true;
    dontBuild = true;
    # Keeps the code signature that Apple's loader checks.
    dontStrip = true;
    # libmlx finds its libraries and mlx.metallib by their place in the wheel.
    installPhase = "mkdir -p $out && cp -r mlx $out/ && if [ -d ${names.${backend}}.libs ]; then cp -r ${names.${backend}}.libs $out/; fi";
    meta = {
      description = "MLX array framework, prebuilt";
      license = lib.licenses.mit;
      platforms = builtins.attrNames wheels.${backend};
      sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    };
  };

  crate = pkgs.fetchCrate {
    pname = "mlx-sys";
    version = "0.7.0";
    hash = "sha256-4Xoh8E5U+nvitVWBbCrS/yuzHJLcO155Xtu2mUTo0pM=";
  };
in
pkgs.linkFarm "mlx-native-${backend}" {
  "mlx-${backend}" = mlx;
  mlx-c = "${crate}/src/mlx-c";
}
