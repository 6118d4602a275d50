"""Copy detection: is a generated picture a near copy of one that was retrieved or trained on?"""
