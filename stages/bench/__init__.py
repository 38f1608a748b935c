"""`vqa bench` and the estimates of `vqa run --dry-run`: what things cost, counted and measured."""
