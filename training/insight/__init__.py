"""What a run teaches: figures, tables and one HTML page that holds them all.

record  →  measures  →  curves, drawing, results  →  page
(files)    (numbers)    (figures)                    (HTML)
"""
