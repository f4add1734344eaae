# The package in a ROS 2 distribution, built and ready to launch.
#   docker build --build-arg ROS_DISTRO=lyrical -t psd_depth_ros .
#   docker run --rm --network host --ipc host psd_depth_ros \
#     ros2 launch psd_depth_ros depth.launch.py image:=/camera/image_raw
# With `--gpus all` where there is an NVIDIA GPU. TORCH_INDEX names another index of torch, such as
# that of builds for the CPU, 2 GB smaller.
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base
ARG TORCH_INDEX=
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /workspace

# NumPy and OpenCV stay those of the distribution.
COPY package.xml requirements.txt src/psd_depth_ros/
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-pip python3-colcon-common-extensions \
 && rosdep update --rosdistro "$ROS_DISTRO" \
 && rosdep install -y --from-paths src --ignore-src --rosdistro "$ROS_DISTRO" \
      --skip-keys rviz2 \
 && rm -rf /var/lib/apt/lists/*
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --break-system-packages \
      ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && pip install --no-cache-dir --break-system-packages -r src/psd_depth_ros/requirements.txt

COPY . src/psd_depth_ros
RUN source "/opt/ros/$ROS_DISTRO/setup.bash" \
 && colcon list | grep -F '(ros.ament_python)' \
 && colcon build

ENTRYPOINT ["/bin/bash", "-c", "source /workspace/install/setup.bash && exec \"$@\"", "--"]
CMD ["ros2", "launch", "psd_depth_ros", "depth.launch.py"]
