"""How alike structures are: SOAP, REMatch, sketch-map and the overlap of clouds."""
