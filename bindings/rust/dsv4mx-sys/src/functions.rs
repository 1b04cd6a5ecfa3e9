//! Macros behind the generated files.

/// The functions of the stable header: a table of pointers, filled at run time (`load`) or by the linker (`link`), and a
/// method of [`crate::Api`] for each.
macro_rules! functions {
    ($( $(#[$meta:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?; )*) => {
        #[derive(Clone, Copy)]
        pub(crate) struct Functions {
            $( $name: unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?, )*
        }

        impl Functions {
            /// # Safety
            /// The library's functions have the signatures of the header that this file was made from.
            #[cfg(not(feature = "link"))]
            pub(crate) unsafe fn load(library: &libloading::Library) -> Result<Self, &'static str> {
                $(
                    // SAFETY: by this function's contract.
                    let $name = unsafe {
                        library.get::<unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?>(
                            concat!(stringify!($name), "\0").as_bytes(),
                        )
                    };
                    let $name = *$name.map_err(|_| stringify!($name))?;
                )*
                Ok(Self { $($name),* })
            }

            #[cfg(feature = "link")]
            pub(crate) const LINKED: Self = Self { $( $name: linked::$name, )* };
        }

        /// The functions of the header. Their contracts, also of safety, are the header's.
        #[allow(clippy::missing_safety_doc, clippy::too_many_arguments)]
        impl crate::Api {
            $(
                $(#[$meta])*
                #[inline]
                pub unsafe fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the caller's contract is the header's.
                    unsafe { (self.functions.$name)($($arg),*) }
                }
            )*
        }

        #[cfg(feature = "link")]
        pub mod linked {
            #[allow(unused_imports)]
            use super::*;
            unsafe extern "C" {
                $( $(#[$meta])* pub fn $name($($arg: $ty),*) $(-> $ret)?; )*
            }
        }
    };
}

/// The functions behind `DSV4MX_EXPERIMENTAL`: a library without them can be used all the same.
macro_rules! experimental_functions {
    ($( $(#[$meta:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?; )*) => {
        use crate::bindings::*;

        #[derive(Clone, Copy)]
        pub(crate) struct Functions {
            $( $name: Option<unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?>, )*
        }

        impl Functions {
            /// # Safety
            /// The library's functions have the signatures of the header that this file was made from.
            #[cfg(not(feature = "link"))]
            pub(crate) unsafe fn load(library: &libloading::Library) -> Self {
                Self {
                    $(
                        // SAFETY: by this function's contract.
                        $name: unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                            .ok()
                            .map(|symbol| *symbol),
                    )*
                }
            }

            #[cfg(all(feature = "link", feature = "experimental"))]
            pub(crate) const LINKED: Self = Self { $( $name: Some(linked::$name), )* };
            #[cfg(all(feature = "link", not(feature = "experimental")))]
            pub(crate) const LINKED: Self = Self { $( $name: None, )* };
        }

        /// Experimental functions, outside every promise; `None` where the library does not have one.
        #[cfg(feature = "experimental")]
        impl crate::Api {
            $(
                /// Experimental, outside every promise; `None` where the library does not have it.
                ///
                $(#[$meta])*
                #[inline]
                pub fn $name(&self) -> Option<unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?> {
                    self.experimental.$name
                }
            )*
        }

        #[cfg(all(feature = "link", feature = "experimental"))]
        pub mod linked {
            use super::*;
            unsafe extern "C" {
                $( $(#[$meta])* pub fn $name($($arg: $ty),*) $(-> $ret)?; )*
            }
        }
    };
}

/// What the `_INIT` macros of the header do: all zero, and the leading `struct_size`.
macro_rules! sized {
    ($($name:ident),* $(,)?) => {
        $(
            impl $name {
                /// All defaults: zero, with `struct_size` set, as the `_INIT` macro of the header.
                pub const INIT: Self = {
                    // SAFETY: integers, floats, raw pointers and optional function pointers, all of them valid as zero.
                    let mut zero: Self = unsafe { ::core::mem::zeroed() };
                    zero.struct_size = ::core::mem::size_of::<Self>();
                    zero
                };
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::INIT
                }
            }
        )*
    };
}
