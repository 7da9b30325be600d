"""What one plays with in a notebook. Every widget brings a still picture for pages that run no kernel."""
