"""The message class of TF where no package brings it, made with the tools of the wheels.

The wheels of ROS have no tf2_msgs, but the generators that made their message packages, and the
libraries of geometry_msgs, are among them; a C and a C++ compiler do the rest, in about a second.
The type it makes has the name, the fields and the hash of the real one.
"""

import os
from pathlib import Path
import subprocess
import sys
import sysconfig

import numpy as np

IDL = """\
#include "geometry_msgs/msg/TransformStamped.idl"
module tf2_msgs { module msg {
  struct TFMessage { sequence<geometry_msgs::msg::TransformStamped> transforms; };
}; };
"""
# Gives the middleware either of the two type supports, as the generated dispatcher does.
DISPATCH = """\
#include <string.h>
#include "rosidl_runtime_c/message_type_support_struct.h"
#include "rosidl_typesupport_interface/macros.h"
#include "tf2_msgs/msg/detail/tf_message__functions.h"
#define SUPPORT(kind) \\
  ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME(kind, tf2_msgs, msg, TFMessage)
typedef const rosidl_message_type_support_t * Support;
Support SUPPORT(rosidl_typesupport_fastrtps_c)(void);
Support SUPPORT(rosidl_typesupport_introspection_c)(void);
static Support pick(Support unused, const char * identifier) {
  (void) unused;
  Support known[] = {
    SUPPORT(rosidl_typesupport_fastrtps_c)(), SUPPORT(rosidl_typesupport_introspection_c)()};
  for (int i = 0; i < 2; ++i) {
    if (strcmp(known[i]->typesupport_identifier, identifier) == 0) {return known[i];}
  }
  return NULL;
}
static rosidl_message_type_support_t both = {
  "rosidl_typesupport_c", NULL, pick, &tf2_msgs__msg__TFMessage__get_type_hash,
  &tf2_msgs__msg__TFMessage__get_type_description,
  &tf2_msgs__msg__TFMessage__get_type_description_sources};
Support SUPPORT(rosidl_typesupport_c)(void) {return &both;}
"""
LIBRARIES = (
    *(f'geometry_msgs__rosidl_{kind}' for kind in ('generator_c', 'generator_py')),
    *(f'geometry_msgs__rosidl_typesupport_{kind}_c' for kind in ('fastrtps', 'introspection')),
    *(f'{package}__rosidl_generator_c' for package in ('std_msgs', 'builtin_interfaces')),
    *(f'rosidl_typesupport_{kind}' for kind in ('fastrtps_c', 'fastrtps_cpp', 'introspection_c')),
    *('rosidl_runtime_c', 'fastcdr', 'rmw', 'rcutils'),
)


def build_tf2_msgs(folder: Path) -> Path:
    """Make the package in `folder`; returns what must be on the path of Python.

    Raises ImportError, OSError or CalledProcessError where tools are missing.
    """
    package = folder / 'tf2_msgs'
    source = folder / 'msg' / 'TFMessage.idl'
    source.parent.mkdir(parents=True)
    source.write_text(IDL)
    os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    _generate(folder, package)
    (package / '__init__.py').touch()
    (package / 'dispatch.c').write_text(DISPATCH)
    include = [sysconfig.get_paths()['include'], np.get_include(), f'{sys.prefix}/include', folder]
    include += sorted(path for path in Path(sys.prefix, 'include').iterdir() if path.is_dir())
    flags = ['-fPIC', '-O0', *(f'-I{path}' for path in include)]
    files = [*package.rglob('*.c'), *package.rglob('*.cpp')]
    compilers = [
        subprocess.Popen(
            ['g++' if file.suffix == '.cpp' else 'gcc', *flags, '-c', file, '-o', f'{file}.o']
        )
        for file in files
    ]
    if any(one.wait() for one in compilers):
        raise OSError('tf2_msgs cannot be compiled')
    library = package / 'tf2_msgs_s__rosidl_typesupport_c.so'
    where = f'{sys.prefix}/lib'
    subprocess.run(
        [
            *('g++', '-shared', '-o', library, f'-L{where}', f'-Wl,-rpath,{where}'),
            *(f'{file}.o' for file in files),
            *(f'-l{name}' for name in LIBRARIES),
        ],
        check=True,
    )
    return folder


def _generate(folder: Path, package: Path) -> None:
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    for kind in (
        GenerateC,
        GenerateFastRTPSCTypesupport,
        GenerateIntrospectionCTypesupport,
        GeneratePython,
    ):
        # Their constructors ask the index for all type supports there are; one is enough.
        generator = kind.__new__(kind)
        setattr(
            generator, f'_{kind.__name__}__typesupport_implementations', ['rosidl_typesupport_c']
        )
        files, places = [f'{folder}:msg/TFMessage.idl'], [Path(sys.prefix) / 'share']
        generator.generate('tf2_msgs', files, places, package)
