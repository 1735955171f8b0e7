//! Parts of a model that contain layers, and the macro that declares them.

use mlx_rs::Array;

use crate::builder::join;
use crate::layers::{Embedding, Layer, LayerMut, Linear, Norm};

/// A part of a model that contains layers; lists them under their checkpoint names, always in the same order.
///
/// [`module!`] implements it for the structs of an architecture.
pub(crate) trait Layers {
    /// Appends the layers of this part to `found`; `path` is the name of the part.
    fn collect<'a>(&'a self, path: &str, found: &mut Vec<(String, Layer<'a>)>);

    /// Appends the layers of this part to `found`, for changing.
    fn collect_mut<'a>(&'a mut self, path: &str, found: &mut Vec<(String, LayerMut<'a>)>);
}

impl Layers for Linear {
    fn collect<'a>(&'a self, path: &str, found: &mut Vec<(String, Layer<'a>)>) {
        found.push((path.to_owned(), Layer::Linear(self)));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, found: &mut Vec<(String, LayerMut<'a>)>) {
        found.push((path.to_owned(), LayerMut::Linear(self)));
    }
}

impl Layers for Embedding {
    fn collect<'a>(&'a self, path: &str, found: &mut Vec<(String, Layer<'a>)>) {
        found.push((path.to_owned(), Layer::Embedding(self)));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, found: &mut Vec<(String, LayerMut<'a>)>) {
        found.push((path.to_owned(), LayerMut::Embedding(self)));
    }
}

impl Layers for Norm {
    fn collect<'a>(&'a self, path: &str, found: &mut Vec<(String, Layer<'a>)>) {
        found.push((path.to_owned(), Layer::Norm(self)));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, found: &mut Vec<(String, LayerMut<'a>)>) {
        found.push((path.to_owned(), LayerMut::Norm(self)));
    }
}

impl<T: Layers> Layers for Option<T> {
    fn collect<'a>(&'a self, path: &str, found: &mut Vec<(String, Layer<'a>)>) {
        if let Some(part) = self {
            part.collect(path, found);
        }
    }

    fn collect_mut<'a>(&'a mut self, path: &str, found: &mut Vec<(String, LayerMut<'a>)>) {
        if let Some(part) = self {
            part.collect_mut(path, found);
        }
    }
}

impl<T: Layers> Layers for Vec<T> {
    fn collect<'a>(&'a self, path: &str, found: &mut Vec<(String, Layer<'a>)>) {
        for (index, part) in self.iter().enumerate() {
            part.collect(&join(path, &index.to_string()), found);
        }
    }

    fn collect_mut<'a>(&'a mut self, path: &str, found: &mut Vec<(String, LayerMut<'a>)>) {
        for (index, part) in self.iter_mut().enumerate() {
            part.collect_mut(&join(path, &index.to_string()), found);
        }
    }
}

/// Returns the arrays of `part` that fine-tuning may train, always in the same order.
pub(crate) fn trainable_arrays(part: &mut dyn Layers) -> Vec<&mut Array> {
    let mut layers = Vec::new();
    part.collect_mut("", &mut layers);
    layers.into_iter().flat_map(|(_, layer)| layer.trainable_arrays()).collect()
}

/// Declares a part of a model. Each layer is a line with its name in checkpoints, its type and how to build it; the block
/// after `with` holds fields without parameters.
///
/// Generates the struct, `new(builder, …)`, which builds every layer at its own path, and [`Layers`].
///
/// ```ignore
/// module! {
///     /// Two linear maps.
///     struct Pair(at, width: i32) {
///         first: Linear = Linear::new(at, width, width, false), // `at` is the builder at `first`
///         second: Linear = Linear::new(at, width, width, false),
///     } with {
///         scale: f32 = 0.5,
///     }
/// }
/// ```
macro_rules! module {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(<$generic:ident: $bound:path>)? ($at:ident $(, $arg:ident: $arg_type:ty)* $(,)?) {
            $($layer:ident: $layer_type:ty = $layer_value:expr,)*
        } with {
            $($(#[$field_meta:meta])* $field:ident: $field_type:ty = $field_value:expr,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone)]
        $vis struct $name $(<$generic: $bound>)? {
            $($layer: $layer_type,)*
            $($(#[$field_meta])* $field: $field_type,)*
        }

        impl $(<$generic: $bound>)? $name $(<$generic>)? {
            /// Builds the part at the builder's path.
            $vis fn new(
                builder: &$crate::builder::Builder<'_>,
                $($arg: $arg_type,)*
            ) -> ::std::result::Result<Self, String> {
                Ok(Self {
                    $($layer: {
                        let $at = &builder.at(stringify!($layer));
                        $layer_value
                    },)*
                    $($field: $field_value,)*
                })
            }
        }

        impl $(<$generic: $bound>)? $crate::module::Layers for $name $(<$generic>)? {
            fn collect<'a>(&'a self, path: &str, found: &mut Vec<(String, $crate::layers::Layer<'a>)>) {
                $(self.$layer.collect(&$crate::builder::join(path, stringify!($layer)), found);)*
            }

            fn collect_mut<'a>(
                &'a mut self,
                path: &str,
                found: &mut Vec<(String, $crate::layers::LayerMut<'a>)>,
            ) {
                $(self.$layer.collect_mut(&$crate::builder::join(path, stringify!($layer)), found);)*
            }
        }
    };
}

pub(crate) use module;
