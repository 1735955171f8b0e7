//! The first thread that computes becomes a worker. These tests need a process of their own, because only the first caller does.

use mlx_sys::join_workers;

fn index() -> Option<usize> {
    join_workers();
    join_workers();
    rayon::current_thread_index()
}

#[test]
fn the_first_thread_works_itself_and_others_are_left_alone() {
    let first = std::thread::spawn(|| {
        let index = index();
        let mut sums = vec![0_u64; 1000];
        rayon::scope(|scope| {
            for (number, sum) in sums.iter_mut().enumerate() {
                scope.spawn(move |_| *sum = (0..=number as u64).sum());
            }
        });
        (index, sums)
    });
    let (first, sums) = first.join().expect("no panic");
    assert_eq!(first, Some(0));
    assert!(sums.iter().zip(0_u64..).all(|(&sum, number)| sum == number * (number + 1) / 2));
    assert_eq!(std::thread::spawn(index).join().expect("no panic"), None);
}
