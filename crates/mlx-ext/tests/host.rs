//! Host operations: lazy, safe to fail, differentiable, and without copies where none is needed.

#![expect(clippy::float_cmp, reason = "small integers are exact in floats")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_ext::host::{HostOp, set_run_ahead};
use mlx_ext::{Options, Result, checkpoint, custom_vjp, value_and_grad};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, Stream, StreamOrDevice, with_stream};

fn start() {
    mlx_ext::init(&Options::default()).expect("a CPU");
}

fn numbers(shape: &[i32]) -> Array {
    let count = shape.iter().product::<i32>();
    Array::from_iter((0..count).map(|i| i as f32), shape)
}

/// Returns factor · x as a host operation.
fn times(factor: f32, x: &Array) -> Result<Array> {
    HostOp::new("times").input(x).output(x.shape(), Dtype::Float32).build_one(move |inputs, outputs| {
        for (y, x) in outputs[0].slice::<f32>().iter_mut().zip(inputs[0].slice::<f32>()) {
            *y = factor * x;
        }
    })
}

/// Adds one to an input in place.
fn plus_one(x: &Array) -> Result<Array> {
    HostOp::new("plus_one").input(x).output_over(0).build_one(|_, outputs| {
        outputs[0].slice::<f32>().iter_mut().for_each(|y| *y += 1.0);
    })
}

fn values(array: &Array) -> Vec<f32> {
    array.eval().expect("an evaluation");
    if array.size() == 0 {
        return Vec::new();
    }
    array.as_slice::<f32>().to_vec()
}

#[test]
fn the_function_runs_once_and_only_on_evaluation() -> Result<()> {
    start();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let x = numbers(&[3]);
    let y =
        HostOp::new("count").input(&x).output(&[3], Dtype::Float32).build_one(move |inputs, outputs| {
            counter.fetch_add(1, Ordering::SeqCst);
            outputs[0].slice::<f32>().copy_from_slice(inputs[0].slice());
        })?;
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(values(&y), [0.0, 1.0, 2.0]);
    assert_eq!(values(&y.add(&y)?), [0.0, 2.0, 4.0]);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    Ok(())
}

#[test]
fn inputs_of_any_layout_arrive_in_row_major_order() -> Result<()> {
    start();
    let x = numbers(&[2, 3, 4]);
    let sliced = x.try_index((.., 1.., 1..3))?;
    let layouts = [
        x.transpose_axes(&[0, 2, 1])?,
        x.transpose_axes(&[2, 1, 0])?,
        sliced,
        x.try_index((.., .., -1))?,
        x.try_index((.., 0..1, ..))?.try_index((.., 0, ..))?,
        mlx_rs::ops::broadcast_to(numbers(&[3, 1]), &[2, 3, 4])?,
        Array::from_f32(5.0),
    ];
    for layout in layouts {
        assert_eq!(values(&times(1.0, &layout)?), values(&layout.contiguous()?), "{:?}", layout.shape());
        assert_eq!(values(&plus_one(&layout)?), values(&layout.add(Array::from_f32(1.0))?.contiguous()?));
    }
    Ok(())
}

#[test]
fn rows_of_strided_inputs_are_read_where_they_are() -> Result<()> {
    start();
    // [B, L, H, D] seen as [B, H, L, D], and a slice of it.
    let heads = numbers(&[2, 3, 4, 5]).transpose_axes(&[0, 2, 1, 3])?;
    let view = heads.try_index((.., .., 1.., ..))?;
    let op = HostOp::new("rows").strided_input(&view).output(&[2, 4, 2, 5], Dtype::Float32);
    let copied = op.build_one(|inputs, outputs| {
        assert_eq!(inputs[0].strides(), [60, 5, 20, 1]);
        let mut rows = outputs[0].slice::<f32>().chunks_exact_mut(5);
        for (b, h, l) in (0..16).map(|i| (i / 8, i / 2 % 4, i % 2)) {
            rows.next().expect("16 rows").copy_from_slice(inputs[0].row(&[b, h, l]));
        }
    })?;
    assert_eq!(values(&copied), values(&view.contiguous()?));
    // A last axis that is not contiguous is copied even so.
    let turned = numbers(&[2, 3]);
    let op = HostOp::new("rows").strided_input(&turned.t()).output(&[3, 2], Dtype::Float32);
    let copied = op.build_one(|inputs, outputs| {
        for (row, out) in outputs[0].slice::<f32>().chunks_exact_mut(2).enumerate() {
            out.copy_from_slice(inputs[0].row(&[row]));
        }
    })?;
    assert_eq!(values(&copied), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    Ok(())
}

#[test]
fn several_outputs_of_several_types() -> Result<()> {
    start();
    let x = numbers(&[2, 2]);
    let op = HostOp::new("split").input(&x).output(&[2], Dtype::Float32).output(&[], Dtype::Int32);
    let parts = op.build(|inputs, outputs| {
        let [rows, count] = outputs else { panic!("two outputs") };
        for (sum, row) in rows.slice::<f32>().iter_mut().zip(inputs[0].slice::<f32>().chunks(2)) {
            *sum = row.iter().sum();
        }
        count.slice::<i32>()[0] = inputs[0].slice::<f32>().len() as i32;
    })?;
    assert_eq!(parts[1].item_exact::<i32>(), 4);
    assert_eq!(values(&parts[0]), [1.0, 5.0]);
    // The other output is never asked for.
    let op = HostOp::new("split").input(&x).output(&[2], Dtype::Float32).output(&[3], Dtype::Float32);
    let parts =
        op.build(|_, outputs| outputs.iter_mut().for_each(|output| output.slice::<f32>().fill(2.0)))?;
    assert_eq!(values(&parts[1].square()?), [4.0; 3]);
    Ok(())
}

#[test]
fn arrays_without_elements_are_no_special_case() -> Result<()> {
    start();
    for shape in [&[0][..], &[2, 0], &[0, 3]] {
        let x = Array::zeros::<f32>(shape)?;
        assert_eq!(times(2.0, &x)?.shape(), shape);
        assert!(values(&times(2.0, &x)?).is_empty());
        assert!(values(&plus_one(&x)?).is_empty());
        assert_eq!(times(2.0, &x)?.sum(None)?.item_exact::<f32>(), 0.0);
    }
    Ok(())
}

#[test]
fn an_output_takes_over_a_buffer_only_if_nothing_else_reads_it() -> Result<()> {
    start();
    let address_in = Arc::new(AtomicUsize::new(0));
    let address_out = Arc::new(AtomicUsize::new(0));
    let made_and_raised = |shape: &[i32]| -> Result<(Array, Array)> {
        let (first, second) = (address_in.clone(), address_out.clone());
        let made = HostOp::new("make").output(shape, Dtype::Float32).build_one(move |_, outputs| {
            let slice = outputs[0].slice::<f32>();
            slice.fill(1.0);
            first.store(slice.as_ptr() as usize, Ordering::SeqCst);
        })?;
        let raised = HostOp::new("raise").input(&made).output_over(0).build_one(move |_, outputs| {
            let slice = outputs[0].slice::<f32>();
            for y in slice.iter_mut() {
                *y += 1.0;
            }
            second.store(slice.as_ptr() as usize, Ordering::SeqCst);
        })?;
        Ok((made, raised))
    };
    let (made, raised) = made_and_raised(&[8, 8])?;
    drop(made);
    assert_eq!(values(&raised), [2.0; 64]);
    assert_eq!(address_in.load(Ordering::SeqCst), address_out.load(Ordering::SeqCst));
    let (made, raised) = made_and_raised(&[8, 8])?;
    assert_eq!(values(&raised), [2.0; 64]);
    assert_eq!(values(&made), [1.0; 64]);
    assert_ne!(address_in.load(Ordering::SeqCst), address_out.load(Ordering::SeqCst));
    Ok(())
}

#[test]
fn an_input_that_was_taken_over_cannot_be_read() -> Result<()> {
    start();
    let x = numbers(&[4]);
    let op = HostOp::new("greedy").input(&x).output_over(0);
    let both = op.build_one(|inputs, outputs| {
        outputs[0].slice::<f32>()[0] = inputs[0].slice::<f32>()[0];
    })?;
    let error = both.eval().expect_err("it panics").to_string();
    assert!(error.contains("taken over"), "{error}");
    Ok(())
}

#[test]
fn a_panic_becomes_an_error_and_mlx_goes_on() -> Result<()> {
    start();
    for _ in 0..3 {
        let x = numbers(&[4]);
        let failing = HostOp::new("fragile").input(&x).output(&[4], Dtype::Float32);
        let failing = failing.build_one(|inputs, _| assert!(inputs[0].dim(0) == 5, "out of stone"))?;
        let error = failing.add(&x)?.eval().expect_err("it panics").to_string();
        assert!(error.contains("fragile") && error.contains("out of stone"), "{error}");
        assert_eq!(values(&times(2.0, &x)?), [0.0, 2.0, 4.0, 6.0]);
    }
    Ok(())
}

#[test]
fn the_function_is_freed_once_whatever_happens() -> Result<()> {
    start();
    let owner = Arc::new(());
    let x = numbers(&[4]);
    let make = |panics: bool| -> Result<Array> {
        let held = owner.clone();
        HostOp::new("hold").input(&x).output(&[4], Dtype::Float32).build_one(move |_, outputs| {
            assert!(!panics, "on purpose {held:?}");
            outputs[0].slice::<f32>().fill(0.0);
        })
    };
    drop(make(false)?);
    values(&make(false)?);
    drop(make(false)?.add(make(false)?)?);
    assert!(make(true)?.eval().is_err());
    // An operation that MLX refuses.
    let held = owner.clone();
    let refused = HostOp::new("refused").input(&x).output(&[-4], Dtype::Float32).build(move |_, _| {
        assert!(Arc::strong_count(&held) > 0);
    });
    drop(refused);
    // The stream drops its last task when it takes the next one.
    values(&times(1.0, &x)?);
    mlx_rs::transforms::eval([&times(1.0, &x)?])?;
    assert_eq!(Arc::strong_count(&owner), 1);
    Ok(())
}

#[test]
fn gradients_flow_through_custom_functions_and_checkpoints() -> Result<()> {
    start();
    let triple =
        || custom_vjp(|inputs| Ok(vec![times(3.0, &inputs[0])?]), |_, by, _| Ok(vec![times(3.0, &by[0])?]));
    let x = numbers(&[2, 3]);
    let function = triple()?;
    let (value, gradient) = value_and_grad(
        |inputs| Ok(vec![function.call(&[inputs[0].square()?])?[0].sum(None)?]),
        std::slice::from_ref(&x),
        1,
    )?;
    assert_eq!(value[0].item_exact::<f32>(), 165.0);
    assert_eq!(values(&gradient[0]), [0.0, 6.0, 12.0, 18.0, 24.0, 30.0]);

    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let inner = triple()?;
    let function = checkpoint(move |inputs| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(vec![inner.call(inputs)?[0].square()?])
    })?;
    let (_, gradient) =
        value_and_grad(|inputs| Ok(vec![function.call(inputs)?[0].sum(None)?]), std::slice::from_ref(&x), 1)?;
    assert_eq!(values(&gradient[0]), [0.0, 18.0, 36.0, 54.0, 72.0, 90.0]);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    Ok(())
}

#[test]
fn without_a_custom_gradient_mlx_says_so() {
    start();
    let error = value_and_grad(|inputs| Ok(vec![times(2.0, &inputs[0])?.sum(None)?]), &[numbers(&[2])], 1)
        .expect_err("no gradient")
        .to_string();
    assert!(error.contains("times"), "{error}");
}

#[test]
fn the_run_ahead_bounds_memory_and_never_blocks_for_ever() -> Result<()> {
    start();
    let peak = |ahead: usize| -> Result<usize> {
        set_run_ahead(ahead);
        mlx_rs::memory::clear_cache()?;
        mlx_rs::memory::reset_peak_memory()?;
        let before = mlx_rs::memory::active_memory()?;
        let mut x = numbers(&[1 << 16]);
        for _ in 0..200 {
            let slow = HostOp::new("slow").input(&x).output(x.shape(), Dtype::Float32);
            x = slow.build_one(|inputs, outputs| {
                std::thread::sleep(std::time::Duration::from_micros(200));
                outputs[0].slice::<f32>().copy_from_slice(inputs[0].slice());
            })?;
        }
        x.eval()?;
        Ok(mlx_rs::memory::peak_memory()? - before)
    };
    let array = 4 << 16;
    assert!(peak(1)? <= 4 * array);
    assert!(peak(usize::MAX)? > 20 * array);
    set_run_ahead(1);
    // Two streams that wait for each other.
    let stream = StreamOrDevice::new(Stream::new_with_device(&mlx_rs::Device::cpu()));
    let mut x = numbers(&[256]);
    for _ in 0..50 {
        x = times(1.0, &with_stream(stream.as_ref(), || times(1.0, &x))?)?.add(times(1.0, &x)?)?;
        x = x.multiply(Array::from_f32(0.5))?;
    }
    assert_eq!(values(&x), values(&numbers(&[256])));
    // A failure leaves the gate.
    let failing =
        HostOp::new("fragile").input(&x).output(&[4], Dtype::Float32).build_one(|_, _| panic!("late"))?;
    assert!(failing.eval().is_err());
    assert_eq!(values(&times(1.0, &x)?), values(&x));
    set_run_ahead(usize::MAX);
    Ok(())
}
