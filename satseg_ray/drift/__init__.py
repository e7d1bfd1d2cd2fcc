"""What imagery looks like, in mergeable sketches; no Ray and no TensorFlow."""
