//! Memory of repeated gradients. The only test of its program, because MLX counts memory per process.

use mlx_rs::Array;

#[test]
fn repeated_gradients_leak_nothing() -> mlx_ext::Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let function = mlx_ext::custom_vjp(
        |inputs| Ok(vec![inputs[0].square()?.sum(None)?]),
        |inputs, cotangents, _| Ok(vec![inputs[0].multiply(&cotangents[0])?]),
    )?;
    let x = Array::ones::<f32>(&[64, 64])?;
    let step = || -> mlx_ext::Result<f32> {
        let (value, gradient) =
            mlx_ext::value_and_grad(|inputs| function.call(inputs), std::slice::from_ref(&x), 1)?;
        mlx_rs::transforms::eval([&value[0], &gradient[0]])?;
        Ok(value[0].item_exact())
    };
    step()?;
    let before = mlx_rs::memory::active_memory()?;
    for _ in 0..200 {
        step()?;
        assert_eq!(mlx_rs::memory::active_memory()?, before);
    }
    Ok(())
}
