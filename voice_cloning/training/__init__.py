"""The parts of one training run; imports none of its neighbours."""
