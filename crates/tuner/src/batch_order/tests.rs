//! The order against its literal definition, with curricula and mixtures.

use std::collections::BTreeMap;

use dataset::MixtureComponent;
use proptest::prelude::*;

use super::*;

/// Computes an epoch literally as documented, without saving memory.
fn plain_epoch(order: &BatchOrder, epoch: u64) -> Vec<Vec<Vec<u32>>> {
    let rows = permutation(order.seed, "rows", epoch, order.lengths.len());
    let lines: Vec<Vec<u32>> = if let Some(length) = order.length {
        let (mut lines, mut open) = (Vec::<Vec<u32>>::new(), Vec::<(usize, usize)>::new());
        for row in rows {
            let room = input_count(order.lengths[row as usize] as usize);
            if let Some(index) = open.iter().position(|&(_, left)| left >= room) {
                lines[open[index].0].push(row);
                open[index].1 -= room;
                if open[index].1 == 0 {
                    open.remove(index);
                }
            } else {
                if open.len() == OPEN_LINES {
                    open.remove(0);
                }
                open.push((lines.len(), length - room));
                lines.push(vec![row]);
            }
        }
        lines
    } else {
        let pools = rows.chunks(order.batch_size * BATCHES_PER_POOL).map(|pool| {
            let mut pool = pool.to_vec();
            pool.sort_by_key(|&row| order.lengths[row as usize]);
            pool
        });
        pools.flatten().map(|row| vec![row]).collect()
    };
    let batches: Vec<_> = lines.chunks(order.batch_size).map(<[_]>::to_vec).collect();
    let shuffled = permutation(order.seed, "micro-batches", epoch, batches.len());
    shuffled.iter().map(|&index| batches[index as usize].clone()).collect()
}

fn all_of_epoch(order: &mut BatchOrder, epoch: usize) -> Vec<MicroBatch> {
    let range = order.batches_in(epoch)..order.batches_in(epoch + 1);
    range.map(|index| order.at(index)).collect()
}

proptest! {
    #[test]
    fn the_order_equals_its_literal_definition(
        lengths in proptest::collection::vec(1u32..40, 1..300), batch_size in 1usize..9, packed: bool, seed: u64,
    ) {
        let mut order = if packed {
            BatchOrder::packed(lengths, batch_size, 39, seed).expect("rows fit")
        } else {
            BatchOrder::new(lengths, batch_size, seed).expect("there are rows")
        };
        for epoch in [1, 0] {
            let flat: Vec<_> =
                all_of_epoch(&mut order, epoch).into_iter().map(|micro| micro.lines).collect();
            prop_assert_eq!(flat, plain_epoch(&order, epoch as u64));
        }
    }

    #[test]
    fn a_curriculum_orders_rows_from_easy_to_hard_with_each_row_once(
        lengths in proptest::collection::vec(1u32..12, 1..120), batch_size in 1usize..6, packed: bool, seed: u64,
    ) {
        let plain = if packed {
            BatchOrder::packed(lengths.clone(), batch_size, 24, seed).expect("rows fit")
        } else {
            BatchOrder::new(lengths.clone(), batch_size, seed).expect("there are rows")
        };
        let hardness: Vec<f32> = lengths.iter().map(|&length| length as f32).collect();
        let mut order = plain.in_order(Curriculum { hardness, epochs: 2 });
        for epoch in 0..3 {
            let rows: Vec<u32> =
                all_of_epoch(&mut order, epoch).iter().flat_map(MicroBatch::rows).collect();
            let mut sorted = rows.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..lengths.len() as u32).collect::<Vec<_>>());
            let rises = rows.windows(2).all(|pair| lengths[pair[0] as usize] <= lengths[pair[1] as usize]);
            // A packed line may include a few harder rows.
            prop_assert!(rises || packed || epoch == 2);
        }
    }

    #[test]
    fn first_rows_of_packed_lines_are_ordered_from_easy_to_hard(
        lengths in proptest::collection::vec(1u32..12, 1..120), seed: u64,
    ) {
        let hardness: Vec<f32> = lengths.iter().map(|&length| -(length as f32)).collect();
        let order = BatchOrder::packed(lengths.clone(), 2, 24, seed).expect("rows fit");
        let mut order = order.in_order(Curriculum { hardness, epochs: 0 });
        let micros = all_of_epoch(&mut order, 3);
        let firsts = micros.iter().flat_map(|micro| micro.lines.iter().map(|line| lengths[line[0] as usize]));
        prop_assert!(firsts.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn a_mixture_keeps_its_shares_packed_or_not_and_in_a_curriculum(
        components in proptest::collection::vec((2usize..40, 0.1f64..5.0), 2..5),
        batch_size in 1usize..6, packed: bool, ordered: bool, seed: u64,
    ) {
        let sizes: usize = components.iter().map(|(rows, _)| rows).sum();
        let lengths: Vec<u32> = (0..sizes as u32).map(|row| row * 7 % 20 + 2).collect();
        let weights: BTreeMap<String, f64> =
            components.iter().enumerate().map(|(index, &(_, weight))| (index.to_string(), weight)).collect();
        let named = components.iter().enumerate().map(|(index, &(rows, _))| MixtureComponent { name: index.to_string(), rows });
        let mixture = Mixture::new(named.collect(), &weights, seed).expect("the weights are valid");
        let mut order = if packed {
            BatchOrder::packed(lengths.clone(), batch_size, 64, seed).expect("rows fit").mixed(mixture)
        } else {
            BatchOrder::new(lengths.clone(), batch_size, seed).expect("there are rows").mixed(mixture)
        };
        if ordered {
            let hardness = lengths.iter().map(|&length| length as f32).collect();
            order = order.in_order(Curriculum { hardness, epochs: 1 });
        }
        let total: f64 = weights.values().sum();
        let mut counts = vec![0usize; components.len()];
        for epoch in 0..3 {
            for row in all_of_epoch(&mut order, epoch).iter().flat_map(MicroBatch::rows) {
                let mut end = 0;
                let index = components.iter().position(|&(rows, _)| { end += rows; (row as usize) < end });
                counts[index.expect("a row of the split")] += 1;
            }
            for (&count, &(_, weight)) in counts.iter().zip(&components) {
                let share = ((epoch + 1) * sizes) as f64 * weight / total;
                prop_assert!((count as f64 - share).abs() < 1.0, "{count}, not {share}");
            }
        }
    }
}

#[test]
fn ordered_and_mixed_orders_give_the_same_micro_batch_from_any_position() -> Result<()> {
    let components =
        vec![MixtureComponent { name: "a".into(), rows: 12 }, MixtureComponent { name: "b".into(), rows: 8 }];
    let weights = BTreeMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 3.0)]);
    let order = |packed: bool| -> Result<BatchOrder> {
        let lengths: Vec<u32> = (1..=20).collect();
        let hardness = lengths.iter().map(|&length| (length % 7) as f32).collect();
        let order =
            if packed { BatchOrder::packed(lengths, 3, 24, 9)? } else { BatchOrder::new(lengths, 3, 9)? };
        let order = order.mixed(Mixture::new(components.clone(), &weights, 9)?);
        Ok(order.in_order(Curriculum { hardness, epochs: 1 }))
    };
    for packed in [false, true] {
        let all: Vec<MicroBatch> =
            (0..30).map(|index| order(packed).map(|mut order| order.at(index))).collect::<Result<_>>()?;
        let mut order = order(packed)?;
        assert!((0..30).rev().all(|index| order.at(index) == all[index]));
    }
    Ok(())
}

fn lengths(rows: u32) -> Vec<u32> {
    (0..rows).map(|row| (row * 7919) % 50 + 1).collect()
}

#[test]
fn an_epoch_sees_each_row_once_and_epochs_differ() -> Result<()> {
    for (rows, batch_size) in [(1, 4), (7, 2), (100, 8), (1000, 7)] {
        let orders = [
            BatchOrder::new(lengths(rows), batch_size, 3)?,
            BatchOrder::packed(lengths(rows), batch_size, 64, 3)?,
        ];
        for mut order in orders {
            let mut epochs = Vec::new();
            for epoch in 0..3 {
                let range = order.batches_in(epoch)..order.batches_in(epoch + 1);
                let mut seen = Vec::new();
                for index in range {
                    let micro = order.at(index);
                    assert_eq!(micro.epoch, epoch as u64);
                    assert!(micro.lines.len() <= batch_size);
                    seen.extend(micro.rows());
                }
                epochs.push(seen.clone());
                seen.sort_unstable();
                assert_eq!(seen, (0..rows).collect::<Vec<_>>());
            }
            assert!(rows < 7 || epochs[0] != epochs[1]);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_steps_of_an_epoch_train_each_row_once(
        lengths in proptest::collection::vec(1u32..40, 1..300), batch_size in 1usize..9,
        accumulation in 1usize..12, packed: bool, seed: u64,
    ) {
        let rows = lengths.len();
        let mut order = if packed {
            BatchOrder::packed(lengths, batch_size, 39, seed).expect("rows fit")
        } else {
            BatchOrder::new(lengths, batch_size, seed).expect("there are rows")
        };
        for epoch in [2, 0, 1] {
            let steps = order.steps_in(epoch, accumulation)..order.steps_in(epoch + 1, accumulation);
            let mut seen = Vec::new();
            for step in steps.clone() {
                let batches = order.batches_of_step(step, accumulation);
                prop_assert!(batches.len() == accumulation || step + 1 == steps.end);
                prop_assert!(!batches.is_empty() && batches.len() <= accumulation);
                let end = batches.end;
                seen.extend(batches.flat_map(|index| order.at(index).rows().collect::<Vec<_>>()));
                let epochs = epoch as f64 + seen.len() as f64 / rows as f64;
                prop_assert!((order.epochs_after(end) - epochs).abs() < 1e-12);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..rows as u32).collect::<Vec<_>>());
        }
    }
}

#[test]
fn an_order_gives_the_same_micro_batch_from_any_position() -> Result<()> {
    for length in [None, Some(24)] {
        let order = || match length {
            None => BatchOrder::new((1..=20).collect(), 3, 9),
            Some(length) => BatchOrder::packed((1..=20).collect(), 3, length, 9),
        };
        let all: Vec<MicroBatch> =
            (0..30).map(|index| order().map(|mut order| order.at(index))).collect::<Result<_>>()?;
        let mut order = order()?;
        assert!((0..30).rev().all(|index| order.at(index) == all[index]));
        let share = order.epochs_after(30);
        assert!(share >= all[29].epoch as f64 && share <= all[29].epoch as f64 + 1.0);
    }
    Ok(())
}

#[test]
fn rows_of_a_micro_batch_have_similar_lengths() -> Result<()> {
    let lengths: Vec<u32> = (0..256).map(|row| (row * 97) % 256 + 1).collect();
    let mut order = BatchOrder::new(lengths.clone(), 8, 1)?;
    let padded: u32 = (0..order.batches_in(1))
        .map(|index| {
            let micro = order.at(index);
            micro.rows().map(|row| lengths[row as usize]).max().unwrap_or(0) * micro.lines.len() as u32
        })
        .sum();
    let real: u32 = lengths.iter().sum();
    assert!(f64::from(padded) < 1.05 * f64::from(real), "{padded} positions for {real} tokens");
    Ok(())
}

#[test]
fn packed_lines_are_nearly_full_and_never_overflow() -> Result<()> {
    let lengths = lengths(2000);
    let mut order = BatchOrder::packed(lengths.clone(), 4, 128, 1)?;
    let (mut real, mut lines) = (0, 0);
    for index in 0..order.batches_in(1) {
        for line in order.at(index).lines {
            let filled: usize = line.iter().map(|&row| input_count(lengths[row as usize] as usize)).sum();
            assert!(filled <= 128);
            real += filled;
            lines += 1;
        }
    }
    assert!(real as f64 > 0.95 * f64::from(lines * 128), "{real} tokens in {lines} lines");
    Ok(())
}

#[test]
fn a_row_longer_than_a_line_is_an_error() {
    let error = BatchOrder::packed(vec![3, 40], 1, 16, 0).err().expect("it does not fit");
    assert!(error.to_string().contains("row 1"), "{error}");
}

#[test]
fn settings_of_any_size_do_not_overflow() -> Result<()> {
    let most = usize::MAX;
    let mut order = BatchOrder::new(vec![5; 7], 2, 1)?;
    assert_eq!(order.steps_in(most, 1), most);
    assert_eq!(order.batches_in(most), most);
    assert_eq!(order.batches_of_step(1, most), 4..8);
    let mut packed = BatchOrder::packed(vec![5; 7], most, 8, 1)?;
    assert_eq!((packed.steps_in(2, most), packed.batches_of_step(1, most)), (2, 1..2));
    Ok(())
}
