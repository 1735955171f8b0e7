//! Writing one safetensors file, tensor by tensor.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufWriter, Read, Write as _};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// Name, element type and shape of a tensor that is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLayout {
    /// Name in the file.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Extent of each dimension.
    pub shape: Vec<usize>,
}

impl TensorLayout {
    /// Returns the length of the data in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// A safetensors file that is being written: the header is complete, the data follows in the order of the header.
#[derive(Debug)]
pub struct TensorWriter {
    file: BufWriter<fs_err::File>,
    /// Bytes still missing of each tensor, in order.
    missing: VecDeque<usize>,
}

impl TensorWriter {
    /// Creates the file with a header for `tensors`, whose data is laid out in the given order. The bytes are the same
    /// every time.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    ///
    /// # Panics
    ///
    /// Panics when two tensors have the same name.
    pub fn create(path: &Path, tensors: &[TensorLayout]) -> io::Result<Self> {
        let mut end = 0;
        let mut infos = Vec::new();
        for layout in tensors {
            let start = end;
            end += layout.bytes();
            let (dtype, shape) = (layout.dtype, layout.shape.clone());
            infos.push((layout.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) }));
        }
        let format = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
        let metadata = Metadata::new(Some(format), infos).expect("offsets follow from the shapes");
        let mut header = serde_json::to_vec(&metadata).expect("a header is plain JSON");
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::new(fs_err::File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        Ok(Self { file, missing: tensors.iter().map(TensorLayout::bytes).collect() })
    }

    /// Writes all data of the next tensor: little endian, in C order.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    ///
    /// # Panics
    ///
    /// Panics when the length does not match the layout.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        assert_eq!(self.missing.pop_front(), Some(data.len()), "the data has the size of its layout");
        self.file.write_all(data)
    }

    /// Writes a part of the data of the next tensor, which follows the parts that were written before.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    ///
    /// # Panics
    ///
    /// Panics when the part is longer than what is missing of the tensor.
    pub fn append(&mut self, part: &[u8]) -> io::Result<()> {
        let missing = self.missing.front_mut().expect("a tensor is missing");
        *missing = missing.checked_sub(part.len()).expect("the parts have the size of the layout");
        if *missing == 0 {
            self.missing.pop_front();
        }
        self.file.write_all(part)
    }

    /// Copies all data of the next tensor from `data`, a piece at a time.
    ///
    /// # Errors
    ///
    /// Fails when `data` cannot be read or the file cannot be written, and when `data` ends too early.
    ///
    /// # Panics
    ///
    /// Panics when all tensors are written.
    pub fn copy(&mut self, data: impl Read) -> io::Result<()> {
        let bytes = self.missing.pop_front().expect("a tensor is missing") as u64;
        let copied = io::copy(&mut data.take(bytes), &mut self.file)?;
        if copied == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Flushes the file.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    ///
    /// # Panics
    ///
    /// Panics when a tensor was not written.
    pub fn finish(mut self) -> io::Result<()> {
        assert!(self.missing.is_empty(), "{} tensors were not written", self.missing.len());
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn file_equals_that_of_the_safetensors_crate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let data: [(&str, Dtype, Vec<usize>, &[u8]); 3] = [
            ("b", Dtype::F32, vec![2], &[1; 8]),
            ("a", Dtype::BF16, vec![1, 2], &[2; 4]),
            ("c", Dtype::U8, vec![3], &[3; 3]),
        ];
        let layouts: Vec<TensorLayout> = data
            .iter()
            .map(|(name, dtype, shape, _)| TensorLayout {
                name: (*name).to_owned(),
                dtype: *dtype,
                shape: shape.clone(),
            })
            .collect();
        let mut writer = TensorWriter::create(&path, &layouts).unwrap();
        for (.., bytes) in &data {
            writer.write(bytes).unwrap();
        }
        writer.finish().unwrap();
        let views = data.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let metadata = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
        assert_eq!(fs_err::read(&path).unwrap(), safetensors::serialize(views, Some(metadata)).unwrap());
    }

    #[test]
    fn copied_data_must_have_the_size_of_its_layout() {
        let folder = tempfile::tempdir().unwrap();
        let layout = TensorLayout { name: "a".to_owned(), dtype: Dtype::F32, shape: vec![2] };
        let (copied, written) = (folder.path().join("copied"), folder.path().join("written"));
        let mut writer = TensorWriter::create(&copied, std::slice::from_ref(&layout)).unwrap();
        writer.copy(&[7; 9][..]).unwrap();
        writer.finish().unwrap();
        let mut writer = TensorWriter::create(&written, std::slice::from_ref(&layout)).unwrap();
        writer.write(&[7; 8]).unwrap();
        writer.finish().unwrap();
        assert_eq!(fs_err::read(copied).unwrap(), fs_err::read(&written).unwrap());
        let appended = folder.path().join("appended");
        let mut writer = TensorWriter::create(&appended, std::slice::from_ref(&layout)).unwrap();
        for length in [3, 0, 5] {
            writer.append(&[7; 8][..length]).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(fs_err::read(appended).unwrap(), fs_err::read(&written).unwrap());
        let mut writer = TensorWriter::create(&written, &[layout]).unwrap();
        assert_eq!(writer.copy(&[7; 7][..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    #[should_panic(expected = "the data has the size of its layout")]
    fn data_of_another_size_is_a_bug() {
        let folder = tempfile::tempdir().unwrap();
        let layout = TensorLayout { name: "a".to_owned(), dtype: Dtype::F32, shape: vec![2] };
        let mut writer = TensorWriter::create(&folder.path().join("a"), &[layout]).unwrap();
        let _ = writer.write(&[0; 4]);
    }
}
